# A worker of a RabbitMQ queue that tells its agent whether it is busy and ends when asked to. See README.md and docs/worker.md.
import os, pathlib, time, pika
epu = pathlib.Path(os.environ["EPU_DIR"])
channel = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])).channel()
channel.queue_declare("jobs", durable=True)
channel.basic_qos(prefetch_count=1)                   # one job at a time
for method, _, body in channel.consume("jobs", inactivity_timeout=1):
    (epu / "status").write_text("busy" if method else "idle")
    if method:
        print("working on", body.decode(), flush=True)
        time.sleep(2)                                 # the work
        channel.basic_ack(method.delivery_tag)
    if (epu / "drain").exists():
        break                                         # asked to finish: take no more
channel.connection.close()                            # a job received but not acknowledged goes back to the queue
