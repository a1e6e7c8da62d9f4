"""OpenFlow 1.3 and 1.4 without I/O: values to bytes, bytes to values, and the state of one connection.

    framing     bytes <-> whole messages, length limits
    versions    all that differs between 1.3 and 1.4; bundles
    oxm         match fields: names, ids, widths, masks, order, prerequisites
    actions     actions and instructions, both ways
    flows       flows and groups encoded once and sent often; fast flow dumps
    messages    every other message as a value, both ways
    multipart   statistics and descriptions: requests and replies
    refusals    error numbers in words
    session     one connection: handshake, echo, xids, multipart; bytes in, events out
    text        flows, groups and meters in the spelling of ovs-ofctl

Each imports only those above it (`text` needs no message). Nothing in here may import asyncio, socket, logging or a
clock. The values that are encoded are in `ebbtide.compile.flow`.
"""
