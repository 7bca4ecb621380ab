"""Files of requests in OpenAI's batch format, answered by the API's own routes without a server."""
