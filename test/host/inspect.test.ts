import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { change, look, sshdSettings, told } from './servers.ts'

// One server for all that is in files: each case changes some and puts them back.

const sshd = (...lines: readonly string[]): string => sshdSettings(lines)

const pamAccess = (rules: readonly string[], option = ''): string =>
  `echo 'account required pam_access.so ${option}' >>/etc/pam.d/sshd
  printf '%s\\n' ${rules.map((rule) => `'${rule}'`).join(' ')} >${option.replace('accessfile=', '') || '/etc/security/access.conf'}`

type Case = readonly [name: string, setup: string, ...problems: string[]]

const SSHD: readonly Case[] = [
  ['AllowUsers that names others', sshd('AllowUsers apono admin-*'), 'error login_not_allowed'],
  ['AllowUsers for everybody from somewhere', sshd('AllowUsers *@10.0.0.0/8 apono')],
  ['DenyUsers that names others', sshd('DenyUsers mallory')],
  ['AllowGroups without ours', sshd('AllowGroups apono wheel'), 'error login_not_allowed'],
  ['AllowGroups with ours', sshd('AllowGroups apono apono-*')],
  ['DenyGroups that fits ours', sshd('DenyGroups *-managed'), 'error login_not_allowed'],
  ['no keys', sshd('PubkeyAuthentication no'), 'error key_login_off'],
  ['a password behind the key', sshd('AuthenticationMethods publickey,password'), 'error second_factor'],
  [
    'PAM behind the key',
    sshd('KbdInteractiveAuthentication yes', 'AuthenticationMethods publickey,keyboard-interactive'),
    'warning second_factor',
  ],
  ['a key or a password', sshd('AuthenticationMethods password publickey')],
  ['no ed25519 authority', sshd('CASignatureAlgorithms rsa-sha2-512,ecdsa-sha2-nistp256'), 'error authority_refused'],
  [
    'certificates for RSA only',
    sshd('PubkeyAcceptedAlgorithms ssh-ed25519,rsa-sha2-512-cert-v01@openssh.com'),
    'warning key_type_refused',
  ],
  ['no certificates', sshd('PubkeyAcceptedAlgorithms ssh-ed25519,rsa-sha2-512'), 'error key_type_refused'],
  ['no sessions', sshd('MaxSessions 0'), 'error login_limited'],
  ['no terminals', sshd('PermitTTY no'), 'warning login_limited'],
  ['a forced command', sshd('ForceCommand /bin/true'), 'warning login_limited'],
  ['another root', sshd('ChrootDirectory /srv'), 'warning login_limited'],
  [
    'keys from a command',
    sshd('AuthorizedKeysCommand /bin/true', 'AuthorizedKeysCommandUser nobody'),
    'warning other_keys',
  ],
  ['another authority', sshd('TrustedUserCAKeys /etc/ssh/ssh_host_ed25519_key.pub'), 'warning other_keys'],
  ['no Include', 'sed -i /^Include/d /etc/ssh/sshd_config', 'warning trust_not_effective'],
  [
    'an Include behind a Match',
    "sed -i '/^Include/d' /etc/ssh/sshd_config; printf 'Match User x\\nInclude /etc/ssh/sshd_config.d/*.conf\\n' >>/etc/ssh/sshd_config",
    'warning trust_not_effective',
  ],
  ['a configuration that sshd refuses', 'echo Nonsense yes >>/etc/ssh/sshd_config', 'error sshd_refused_config'],
  ["a folder of sshd's own that is missing", 'rmdir /run/sshd', 'warning sshd_refused_config'],
  [
    'an exception for our group where none of ours is yet',
    sshd('AllowUsers apono', 'Match Group apono-managed', 'X11Forwarding no'),
    'warning login_not_allowed',
  ],
]

const PAM: readonly Case[] = [
  ['denies all but some', pamAccess(['+:root:ALL', '# -:ALL:ALL', '- : ALL EXCEPT apono : ALL']), 'error pam_denied'],
  ['denies our group', pamAccess(['-:(apono-managed):ALL EXCEPT LOCAL']), 'error pam_denied'],
  ['denies in a file of its own', pamAccess(['-:ALL:ALL'], 'accessfile=/etc/own.conf'), 'error pam_denied'],
  ['denies all but ours', pamAccess(['-:ALL EXCEPT root apono (apono-managed):ALL'])],
  ['lets ours in first', pamAccess(['+:ALL:LOCAL cron', '+:apono-managed:ALL', '-:ALL:ALL'])],
  ['denies local logins', pamAccess(['-:ALL:LOCAL', '-:ALL:tty1'])],
  ['is not asked', 'echo "-:ALL:ALL" >/etc/security/access.conf'],
]

const SYSTEM: readonly Case[] = [
  ['a folder of somebody else', 'chown apono /etc/ssh', 'error folder_unsafe'],
  ['a folder that a group may write', 'chgrp apono /home; chmod 775 /home', 'error folder_unsafe'],
  ['a folder that everybody may write', 'chmod 1777 /home', 'error folder_unsafe'],
  ['a folder that the group root may write', 'chmod 775 /etc', 'warning folder_unsafe'],
  ['a missing tool', 'mv /usr/bin/flock /root/; ', 'error tool_missing'],
  [
    'a directory',
    "sed -i 's/^group:.*/group: files [SUCCESS=merge] ldap # sss/' /etc/nsswitch.conf",
    'warning directory_accounts',
  ],
  ['sss without sssd', "sed -i 's/^passwd:.*/passwd: sss files systemd/' /etc/nsswitch.conf"],
  [
    'a cache of names',
    `mkdir /run/nscd
    perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => "/run/nscd/socket", Listen => 1)'`,
    'warning name_cache',
  ],
  ['uids of containers', 'echo apono:10000:65536 >>/etc/subuid', 'warning uid_range_shared'],
  ['uids of containers above ours', 'echo apono:60000:65536 >>/etc/subuid'],
  [
    'a stranger in our group',
    'groupadd -r apono-managed; usermod -aG apono-managed apono',
    'warning managed_group_foreign',
  ],
  [
    'SELinux that keeps us confined',
    'printf "#!/bin/sh\\necho Enforcing\\n" >/usr/sbin/getenforce; chmod 755 /usr/sbin/getenforce',
    'warning selinux_confined',
  ],
  [
    'a password that sudo remembers',
    `echo apono:secret | chpasswd
    printf 'Defaults timestamp_type=global\\napono ALL=(ALL) ALL\\n' >/etc/sudoers.d/apono
    echo secret | setpriv --reuid apono --regid apono --init-groups sudo -S -v -p ''`,
    'warning sudo_password_required',
  ],
]

const RESTORE = `mkdir -p /run/sshd
  rm -rf /run/nscd /etc/ssh/sshd_config.d/* /etc/own.conf /usr/sbin/getenforce
  [ ! -e /root/flock ] || mv /root/flock /usr/bin/
  cp -a /root/etc/. /etc/
  cp -a /root/home-mode/. /home/`

describe('inspect finds', () => {
  let host: TestHost
  // One connection for all: a change that would keep the connector out can be looked at as well.
  const controlPath = join(scratchDirectory(), 'control')
  beforeAll(async () => {
    host = await startHost({ setup: 'cp -a /etc /root/etc; mkdir /root/home-mode' })
  })
  afterAll(() => host?.stop())
  afterEach(() => change(host, RESTORE))

  const finds = async ([_name, setup, ...problems]: Case): Promise<void> => {
    await change(host, setup)
    expect(told(await look(host, controlPath))).toEqual(problems)
  }

  describe('in sshd', () => void it.each(SSHD.map((one) => [one[0], one] as const))('%s', (_name, one) => finds(one)))
  describe('in PAM', () => void it.each(PAM.map((one) => [one[0], one] as const))('it %s', (_name, one) => finds(one)))
  describe('around', () => void it.each(SYSTEM.map((one) => [one[0], one] as const))('%s', (_name, one) => finds(one)))

  it('nothing on an ordinary server', async () => {
    expect(told(await look(host))).toEqual([])
  })
})
