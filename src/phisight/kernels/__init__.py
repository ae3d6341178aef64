"""Operations whose way of being done is a choice; one a file, plain tensors in and out."""
