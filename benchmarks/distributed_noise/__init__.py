"""What noise that the sites add together brings, on PneumoniaMNIST divided among hospitals."""
