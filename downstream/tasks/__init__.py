"""Task heads on an encoder: classification, segmentation, change detection, and their fine-tuning."""
