# A unit of the kernel's own iSCSI target: kernel-target.sh CONTROLLER ADDRESS up|down. Both controllers offer one unit by
# one serial number, each through a port of its own, as an array would.
set -eu
node=$1 address=$2 what=$3
core=/sys/kernel/config/target/core/rd_mcp_0/unit
iscsi=/sys/kernel/config/target/iscsi
group=$iscsi/iqn.2026-01.pollux.lab:kernel.$node/tpgt_1
case $what in
up)
    modprobe --all target_core_mod iscsi_target_mod
    mkdir -p $core
    echo rd_pages=4096 > $core/control
    echo 1 > $core/enable
    echo 0123456789abcdef > $core/wwn/vpd_unit_serial
    # What the kernel offers for keeping reservations: a file of this controller's own.
    mkdir -p /var/target/pr
    mkdir -p $group/lun/lun_0 $group/np/$address:3261
    ln -s $core $group/lun/lun_0/unit
    echo 0 > $group/attrib/authentication
    echo 1 > $group/attrib/generate_node_acls
    echo 0 > $group/attrib/demo_mode_write_protect
    echo 1 > $group/enable
    ;;
down)
    echo 0 > $group/enable
    rm $group/lun/lun_0/unit
    rmdir $group/lun/lun_0 $group/np/$address:3261 $group ${group%/*}
    rmdir $core
    ;;
esac
