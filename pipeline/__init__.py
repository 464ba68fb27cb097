"""From a raw click log to training shards, with Spark. Imports neither torch nor horovod."""
