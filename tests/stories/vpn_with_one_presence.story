# A VPN is on one compute only, which is to leave: it goes where its VMs go, and stays for as long as they do.
a, b, c join
network web 10.1.0.0/24
network data 10.2.0.0/24
vpn green in web importing 100:1 exporting 100:1
vpn store in data importing 100:1 exporting 100:2
vm vm1 on a in web at 10.1.0.1
vm vm2 on b in data at 10.2.0.2
=> green is on a
=> store is on b
=> web's subnet is served by a
=> vm1 does not reach vm2

vpn green in web importing 100:1, 100:2 exporting 100:1
=> vm1 reaches vm2

scalein-computes-start a
=> told: nobody else has a port yet of subnet 10.1.0.0/24 of network web
=> web's subnet is served by a
=> vm1 reaches vm2
scalein-computes-end a
=> refused: a still carries 1 port(s): vm1
vm1 migrates to c
=> green is on c
=> web's subnet is served by c
=> vm1 reaches vm2
=> vm2 reaches vm1
scalein-computes-end a
=> a is removed
=> vm1 reaches vm2

vm1 is deleted
=> green is on nowhere
=> web's subnet is served by nobody
