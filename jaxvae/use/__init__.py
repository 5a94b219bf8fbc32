"""What is done with trained models: sampling, encoding, conversion. The top floor, below scripts alone."""
