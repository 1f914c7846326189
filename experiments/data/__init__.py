"""What an image and a label are: data sets, label noise, augmentation, corrupted and foreign images.

It imports `configs` and `system`.
"""
