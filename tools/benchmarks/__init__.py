"""What the loss, the decoder and a training cost, measured."""
