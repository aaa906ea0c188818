import { expect } from 'vitest'
import { inspect } from '../../src/host/host-program.ts'
import type { InspectResult } from '../../src/protocol/results.ts'
import type { TestHost } from '../hosts/hosts.ts'
import { openSshLink, runContext } from './person.ts'

/** A look at a server; with a control path, all looks share one connection. */
export const look = async (host: TestHost, controlPath?: string, now?: number): Promise<InspectResult> =>
  inspect(await openSshLink(host, controlPath), runContext(now))

/** What a look has found, in short: `severity code`, sorted. */
export const told = ({ problems }: InspectResult): string[] =>
  problems.map(({ severity, code }) => `${severity} ${code}`).sort()

/** Runs a script as root that must succeed without a word on stderr. */
export const change = async (host: TestHost, script: string): Promise<void> => {
  const { code, stderr } = await host.exec(`set -e\n${script}`)
  expect({ code, stderr }, script).toEqual({ code: 0, stderr: '' })
}

/** A script that writes settings into a file of sshd_config.d and has sshd read them. */
export const sshdSettings = (lines: readonly string[], file = '50-test.conf'): string =>
  `cat >/etc/ssh/sshd_config.d/${file} <<'END'\n${lines.join('\n')}\nEND\nsshd -t`

/**
 * A script that ends when sshd has read its configuration anew and listens again. It closes its sockets first and starts
 * itself anew then, so for a moment it has the old title and no sockets.
 */
export const RELOAD = `
  pid=$(pgrep -o -x sshd)
  sockets() { ls -l /proc/$pid/fd 2>/dev/null | grep -o 'socket:.*' || true; }
  before=$(sockets)
  kill -HUP $pid
  until now=$(sockets); [ -n "$now" ] && [ "$now" != "$before" ] && grep -qa listener /proc/$pid/cmdline; do sleep 0.02; done`

/**
 * A script that leaves the host's own sshd on another port and starts one with these arguments in its place; \`before\`
 * stands in front of the command.
 */
export const anotherSshd = (args: string, before = ''): string => `
  echo Port 2222 >/etc/ssh/sshd_config.d/01-port.conf
  ${RELOAD}
  ${before} /usr/sbin/sshd -p 22 -o PidFile=/run/another.pid ${args}
  until grep -qa listener /proc/$(cat /run/another.pid)/cmdline; do sleep 0.02; done`
