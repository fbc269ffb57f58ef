"""The providers: the only door to the openai SDK and the network. Floor 2: calls the store and what is below it."""
