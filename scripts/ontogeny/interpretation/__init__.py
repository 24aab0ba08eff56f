"""What a language model says of features: windows of text, questions, answers and their scores."""
