"""Two trainings of any data set side by side, from the scores that nnU-Net left."""
