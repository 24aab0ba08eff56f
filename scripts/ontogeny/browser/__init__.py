"""The web page over the database: what people look at before they read."""
