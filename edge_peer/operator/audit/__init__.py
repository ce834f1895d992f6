"""Whether the files of a run agree with each other, and make the same models again."""
