"""Operations done differently on different devices; one a file, plain tensors in and out."""
