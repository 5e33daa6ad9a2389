# What a root file system of the appliance is made of, by Debian's names: sourced by `base`, and its text is part of what a
# base is cached by. No sshd: nobody has to shut what is not there.
PACKAGES=(
    # The system, its names, time and log.
    systemd systemd-sysv systemd-resolved systemd-timesyncd dbus udev kmod libpam-systemd
    # The network, what popgate calls to set it up, and what serves a branch's LAN.
    nftables iproute2 iputils-ping ethtool dnsmasq-base
    # What opens and closes backups.
    age
    # Authorities, for certificates that others show.
    ca-certificates
    # State: checked before it is mounted, and grown to its disk.
    e2fsprogs libfdisk1
    # What the first stage of a boot runs.
    busybox-static
)

# What no box reads. Licences stay.
PATHS_LEFT_OUT=(
    '/usr/share/man/*' '/usr/share/info/*' '/usr/share/locale/*' '/usr/share/i18n/*' '/usr/share/lintian/*'
    '/usr/share/bash-completion/*' '/usr/share/zsh/*' '/usr/share/fish/*' '/usr/share/bug/*' '/usr/share/doc/*/changelog*' '/usr/share/doc/*/NEWS*'
)

# Drivers of what a box without a screen of its own, sound or radio does not have; and of what nobody mounts in there. LTE
# modems and network cards on USB stay.
DRIVERS_LEFT_OUT=(
    sound drivers/gpu drivers/media drivers/staging drivers/infiniband drivers/net/wireless drivers/bluetooth
    drivers/isdn drivers/iio drivers/comedi drivers/accessibility drivers/input/joystick drivers/input/tablet
    drivers/input/touchscreen drivers/video drivers/mtd drivers/nfc drivers/firewire drivers/thunderbolt drivers/android
    drivers/target drivers/block/drbd drivers/md drivers/misc/habanalabs drivers/power drivers/parport drivers/pcmcia
    net/bluetooth net/mac80211 net/wireless net/nfc net/ceph net/rds net/tipc net/sctp net/dccp net/batman-adv net/can
    net/ax25 net/rose net/netrom net/9p net/sunrpc net/rxrpc net/smc net/mac802154 net/ieee802154 net/6lowpan net/atm
    fs/btrfs fs/xfs fs/ocfs2 fs/gfs2 fs/ceph fs/nfs fs/nfsd fs/cifs fs/smbfs_common fs/f2fs fs/jfs fs/reiserfs
    fs/nilfs2 fs/ubifs fs/jffs2 fs/afs fs/9p fs/orangefs fs/coda fs/dlm fs/lockd fs/hfs fs/hfsplus fs/ufs fs/ntfs
    fs/ntfs3 fs/udf fs/affs fs/befs fs/bfs fs/efs fs/hpfs fs/minix fs/qnx4 fs/qnx6 fs/sysv fs/romfs fs/omfs fs/erofs
    fs/zonefs fs/cachefiles fs/fscache fs/netfs fs/ecryptfs
)
