"""What to do next: prompt, semantic-ID vocabulary, constrained decoding, training, serving."""
