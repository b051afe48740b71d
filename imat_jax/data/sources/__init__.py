"""One file a feature format; each yields a `Corpus` of the same examples."""
