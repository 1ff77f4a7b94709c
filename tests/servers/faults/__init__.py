"""The process that carries faulty servers: proxies between a client and a server, one loop for all.

In a process of its own because a rate or a latency must hold while the process under test is busy,
and must not take part of its interpreter. `tests.servers.fault_process` starts and steers it.
"""
