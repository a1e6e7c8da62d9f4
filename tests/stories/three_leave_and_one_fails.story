# a, b and c are to leave, and b cannot be emptied: two are ended, and b is what it was.
a, b, c, d join
network red 10.2.0.0/24
network blue 10.1.0.0/24
router r1 in red, blue
vm vm1 on a in red at 10.2.0.1
vm vm2 on b in red at 10.2.0.2
vm vm3 on c in blue at 10.1.0.3
vm vm4 on d in blue at 10.1.0.4
=> vm1 reaches vm2, vm3, vm4
=> vm3 reaches vm2

scalein-computes-start a, b, c
=> a is tombstoned
=> b is tombstoned
=> c is tombstoned
=> blue's subnet is served by d
=> vm1 reaches vm2, vm3, vm4

scalein-computes-end a, b, c
=> refused: still carries 1 port
=> a is tombstoned

vm1 migrates to d
vm3 migrates to d
=> vm1 is on d
=> red's subnet is served by d
scalein-computes-end a, b, c
=> refused: b still carries 1 port(s): vm2
scalein-computes-end a, c
=> a is removed
=> c is removed
scalein-computes-recover b
=> b is ready
=> vm2 is on b
=> vm2 reaches vm1, vm3, vm4
=> red's subnet is served by d
=> b stands by for red's subnet
=> nobody owes
scalein-computes-start a
=> refused: was removed
