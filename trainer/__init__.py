"""From training shards to embeddings, with PyTorch under Horovod. Does not import pyspark."""
