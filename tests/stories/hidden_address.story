# An address that nobody was given; the compute that asks for it is scaled in, and nobody who knows it notices.
a, b, c join
network blue 10.1.0.0/24
network red 10.2.0.0/24
router r1 in blue, red
vm vm1 on a in blue at 10.1.0.1
vm vm2 on b in red at 10.2.0.2
vm vm3 on c in red at 10.2.0.3
=> red's subnet is served by b
=> c stands by for red's subnet
=> vm1 does not reach 10.2.0.100
vm3 has 10.2.0.100 too
=> vm1 reaches 10.2.0.100
=> 10.2.0.100 is behind vm3
=> vm2 reaches 10.2.0.100

scalein-computes-start b
=> red's subnet is served by c
=> vm1 reaches 10.2.0.100
vm2 has 10.2.0.200 too
=> vm1 reaches 10.2.0.200
=> 10.2.0.200 is behind vm2
vm2 migrates to a
=> vm1 reaches 10.2.0.100, 10.2.0.200
scalein-computes-end b
=> b is removed
=> red's subnet is served by c
=> a stands by for red's subnet
vm3 migrates to a
=> red's subnet is served by a
=> vm1 reaches 10.2.0.100, 10.2.0.200
