"""Scores of predictions by each benchmark's own rule, and the table that compares SelfReg with stock nnU-Net."""
