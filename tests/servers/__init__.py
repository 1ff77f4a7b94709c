"""Real servers, and faults between them and a client, on loopback ports of their own.

install.sh       installs what is missing (`make servers`)
rgw.py           Ceph's S3 gateway over one storage daemon in memory; serves GCS reads, too
azurite.py       Azure Blob storage
web.py           nginx: ranges, ETags, TLS, and folders without ranges or behind a password
fault_process.py the process that carries the two below, and their handles:
                 TcpProxy (latency, rate, cuts, refusals), HttpFaults (statuses, wrong answers)
plugin.py        fixtures of them for pytest: rgw, azurite, web, tcp_proxy, http_faults
__main__.py      `python -m tests.servers rgw web`: run some by hand

Each is a process that ends with the one that started it, however that ends. All are context
managers, for benchmarks as for tests: ``with Web() as web: ...``.
"""
