"""What a round costs beside training: hospitals that do nothing, over mutual TLS on loopback."""
