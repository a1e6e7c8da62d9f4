# A compute that asks for addresses falls silent, is scaled in without being heard, and comes back.
a, b, c join
network blue 10.1.0.0/24
network red 10.2.0.0/24
router r1 in blue, red
vm vm1 on a in blue at 10.1.0.1
vm vm2 on b in red at 10.2.0.2
vm vm3 on c in red at 10.2.0.3
=> red's subnet is served by b
b falls silent
=> red's subnet is served by c
=> vm1 reaches vm2, vm3
=> b is ready
scalein-computes-start b
=> b is tombstoned
scalein-computes-end b
=> refused: b still carries 1 port(s): vm2
b is heard again
=> red's subnet is served by c
vm2 migrates to a
b falls silent
scalein-computes-end b
=> b is removed
=> b owes b
=> vm1 reaches vm2, vm3
b is heard again
=> b is removed
=> nobody owes
=> vm1 reaches vm2, vm3
