"""Raw folders of labelled micrographs -> a data set folder."""
