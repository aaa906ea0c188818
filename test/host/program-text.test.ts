import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { programInput } from '../../src/host/parameters.ts'
import { PROGRAM_END, programFor, withoutComments } from '../../src/host/program-text.ts'
import { ROOT_EQUIVALENT_GROUPS } from '../../src/protocol/root-equivalent.ts'
import { runCommand } from '../hosts/command.ts'

const source = readFileSync(new URL('../../src/host/program.sh', import.meta.url), 'utf8')
const nonce = 'a'.repeat(32)
const parameters = { op: 'inspect', cp: 'cp_1', user: 'apono', now: '1', sshd: '902' }
const input = programInput(nonce, parameters)
const forms = ['plain', 'carried'].flatMap((form) => ['dash', 'bash'].map((shell) => [form, shell] as const))

/** Every variable that the program's text sets by being read, and that `places` sets. */
const variables = async (program: string): Promise<string> => {
  const { code, stdout, stderr } = await runCommand('dash', ['-s'], { input: `${program}\nplaces\nset\n` })
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  return stdout
}

describe('the program as it is sent', () => {
  // A server that has only BusyBox gets more: its tools can't do by themselves what has to be done.
  it.each([
    ['present', 'shadow', 49_152],
    ['absent', 'shadow', 49_152],
    ['cleanup', 'shadow', 49_152],
    ['inspect', 'shadow', 49_152],
    ['present', 'busybox', 51_200],
  ] as const)('fits the budget (%s, %s)', (operation, tools, budget) => {
    const sent = programInput(nonce, { op: operation }, { tools, carried: operation === 'present' })
    expect(sent.indexOf(`apono_main ${nonce}`)).toBeLessThanOrEqual(budget)
  })

  it('lost its comments and nothing else: every text that it carries is whole', async () => {
    const sent = ['present', 'uninstall', 'inspect'].map((operation) => programFor(operation)).join('\n')
    expect(sent).not.toMatch(/^\s*#/m)
    // But for what only tests read.
    const whole = source.replace(/^# -+ [^\n]*\{tests\}$[\s\S]*?(?=^# -)/m, '')
    expect(await variables(sent)).toBe(await variables(whole))
  })

  it('knows the same groups as good as root as the control plane does', () => {
    const powers = /^\s*POWERS=' (.*) '$/m.exec(source)?.[1]?.split(' ')
    expect(powers).toEqual([...ROOT_EQUIVALENT_GROUPS])
  })

  it('is a text that its own heredoc can carry', () => {
    expect(source.split('\n')).not.toContain(PROGRAM_END)
    expect(withoutComments('a\n\n  # b\nc # d\n')).toBe('a\nc # d')
  })

  it.each(forms)('runs nothing when it is cut off anywhere (%s, %s)', async (form, shell) => {
    const sent = programInput(nonce, { ...parameters, op: 'present' }, { tools: 'shadow', carried: form === 'carried' })
    const call = sent.indexOf(`apono_main ${nonce}`)
    for (let round = 0; round < 100; round++) {
      const cut = sent.slice(0, Math.floor((call * round) / 100))
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
