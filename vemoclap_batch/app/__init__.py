"""The web application: warm chains behind a queue, the API, the page."""
