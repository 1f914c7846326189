"""What an image and a label are: data sets, label noise, corrupted and foreign images.

Arrays are cropped on the device, in `augment`; JPEGs are cropped while `decode` decodes them.
"""
