"""The app as a server: who may come in, what every answer carries, what an error says to a browser."""
