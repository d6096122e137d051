"""Rules about the first steps of training: loss, learning rate, noise, sharpness."""
