"""What `Vectors` answers: rows of words and sentences, neighbours, evaluation, whole tables."""
