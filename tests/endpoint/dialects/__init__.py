"""The APIs of other servers, with the packages of their clients."""
