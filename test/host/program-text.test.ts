import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { programInput } from '../../src/host/parameters.ts'
import { PROGRAM_END, programFor, withoutComments } from '../../src/host/program-text.ts'
import { ROOT_EQUIVALENT_GROUPS } from '../../src/protocol/root-equivalent.ts'
import { runCommand } from '../hosts/command.ts'
import { functions } from './kill-points.ts'

const source = readFileSync(new URL('../../src/host/program.sh', import.meta.url), 'utf8')
const busybox = readFileSync(new URL('../../src/host/busybox.sh', import.meta.url), 'utf8')
const nonce = 'a'.repeat(32)
const parameters = { op: 'inspect' as const, cp: 'cp_1', user: 'apono', now: '1', sshd: '902' }
const input = programInput(nonce, parameters)
const forms = (['present', 'install'] as const).flatMap((op) => ['dash', 'bash'].map((shell) => [op, shell] as const))

const OPERATIONS = ['present', 'absent', 'inspect', 'install', 'cleanup', 'uninstall'] as const
/** `apono_main` has a call for each job. */
const otherJobs = new Set(['present', 'absent', 'inspect', 'install_program', 'cleanup', 'uninstall', 'expire_all'])
/** What only the timer, or only what changes something, comes to; `ours` is awk's there. */
const neverHere: Partial<Record<(typeof OPERATIONS)[number], readonly string[]>> = {
  present: ['remove_timer', 'doomed'],
  inspect: ['tools_fit', 'account_off', 'return_groups', 'remove_timer', 'doomed', 'ours'],
}

/** Every variable that the program's text sets by being read, and that `places` sets. */
const variables = async (program: string): Promise<string> => {
  const { code, stdout, stderr } = await runCommand('dash', ['-s'], { input: `${program}\nplaces\nset\n` })
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  return stdout
}

describe('the program as it is sent', () => {
  it.each((['shadow', 'busybox'] as const).flatMap((tools) => OPERATIONS.map((op) => [op, tools] as const)))(
    'fits the budget (%s, %s)',
    (op, tools) => {
      const sent = programInput(nonce, { op }, tools)
      expect(sent.indexOf(`apono_main ${nonce}`)).toBeLessThanOrEqual(49_152)
    },
  )

  it('never sets what busybox.sh has as a constant: an empty awk program would empty an account file', () => {
    const constants = [...busybox.matchAll(/^([A-Z]+)='/gm)].map(([, name]) => name ?? '')
    expect(constants).toContain('MEMBER')
    expect(constants.filter((name) => new RegExp(`\\b${name}=`).test(source))).toEqual([])
  })

  it('lost its comments and nothing else: every text that it carries is whole', async () => {
    const sent = (['present', 'uninstall', 'inspect'] as const).map((operation) => programFor(operation)).join('\n')
    expect(sent).not.toMatch(/^\s*#/m)
    // But for what only tests read.
    const whole = source.replace(/^# -+ [^\n]*\{tests\}$[\s\S]*?(?=^# -)/m, '')
    expect(await variables(sent)).toBe(await variables(whole))
  })

  it.each(OPERATIONS.flatMap((op) => (['shadow', 'busybox'] as const).map((tools) => [op, tools] as const)))(
    'has every function that its job calls (%s, %s)',
    (op, tools) => {
      const text = programFor(op, tools)
      const lacking = [...functions().keys()].filter((name) => {
        const called = new RegExp(
          String.raw`(?:^|[;|&!({]|\b(?:if|then|do|else|until|while|patiently|bounded)) *${name}(?=$|[ ;)])`,
          'm',
        )
        return called.test(text) && !new RegExp(`^${name}\\(\\) `, 'm').test(text)
      })
      expect(lacking.filter((name) => !otherJobs.has(name) && !neverHere[op]?.includes(name))).toEqual([])
    },
  )

  it('knows the same groups as good as root as the control plane does', () => {
    const powers = /^\s*POWERS=' (.*) '$/m.exec(source)?.[1]?.split(' ')
    expect(powers).toEqual([...ROOT_EQUIVALENT_GROUPS])
  })

  it('is a text that its own heredoc can carry', () => {
    expect(source.split('\n')).not.toContain(PROGRAM_END)
    expect(withoutComments('a\n\n  # b\nc # d\n')).toBe('a\nc # d')
  })

  it.each(forms)('runs nothing when it is cut off anywhere (%s, %s)', async (op, shell) => {
    const sent = programInput(nonce, { ...parameters, op })
    const call = sent.indexOf(`apono_main ${nonce}`)
    // A function's name that is cut off may be a command.
    const names = [...sent.matchAll(/\n(set|make|sshd|find|account|present|say)(?=[a-z_]*\(\))/g)].map(
      ({ index, 0: { length } }) => index + length,
    )
    expect(names.length).toBeGreaterThan(10)
    for (const at of [...names, ...Array.from({ length: 60 }, (_, round) => Math.floor((call * round) / 60))]) {
      const cut = sent.slice(0, at)
      const { stdout } = await runCommand(shell, ['-s'], { input: cut })
      expect(stdout).toBe('')
    }
  })

  it.each(['dash', 'bash'])('refuses parameters that are cut off anywhere (%s)', async (shell) => {
    const call = input.indexOf('\n', input.indexOf(`apono_main ${nonce}`)) + 1
    const end = input.indexOf(`\nAPONO_EOF_${nonce}`)
    for (let at = call; at < end; at += 7) {
      const { stdout } = await runCommand(shell, ['-s'], { input: input.slice(0, at) })
      expect(stdout).toContain(' fail invalid_')
      expect(stdout).not.toContain(' field ')
    }
  })
})
