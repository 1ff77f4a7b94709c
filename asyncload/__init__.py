"""Load TensorFlow and Keras models inside asyncio programs: ``await asyncload.load(uri)``."""
