"""Training: masked pre-training, contrastive tuning (uaMix-MAE), and the loop they share."""
