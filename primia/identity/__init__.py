"""Who is who: certificates of one study, invitations, signatures. Cryptography only, no network.

All keys are ECDSA on P-256: gRPC's TLS (BoringSSL) takes no Ed25519 certificates.
"""
