"""Published relatives that are options, each in files of its own: TR-BERT, AIN, beliefs."""
