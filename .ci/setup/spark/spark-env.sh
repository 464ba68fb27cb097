# Nobody else needs to reach this Spark, and it starts where the loopback interface is the only one.
export SPARK_LOCAL_IP=127.0.0.1
