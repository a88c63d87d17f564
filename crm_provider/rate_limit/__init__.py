"""One rate budget per API key, for all its callers: threads, processes, and hosts if they share a store.

Slots are spaced at 99 % of the rate. One token of the CRM's burst stays unused: it absorbs the jitter of the network,
so that evenly spaced calls are never refused. A larger burst may be used at once.
"""
