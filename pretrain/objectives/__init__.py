"""What pretraining optimises: NT-Xent with a rule about false negatives, and the prediction of held-out bands."""
