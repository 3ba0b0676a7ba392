"""The research lead's side: enrols sites, runs the rounds of one study, keeps what was committed."""
