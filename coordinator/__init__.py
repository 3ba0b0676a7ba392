"""The research lead's side: enrols sites, runs one study's rounds, keeps what was committed."""
