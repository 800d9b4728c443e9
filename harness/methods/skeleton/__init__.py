"""What methods that work block by block stand on: the stream of activations, the loop, finished blocks, writing."""
