"""Twins vision transformers: backbones, and with them classification, segmentation and detection."""
