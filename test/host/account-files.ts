import { expect } from 'vitest'
import type { TestHost } from '../hosts/hosts.ts'

const FIELDS = { passwd: 7, shadow: 9, group: 4 } as const
type AccountFile = keyof typeof FIELDS
export const ACCOUNT_FILES = Object.keys(FIELDS) as AccountFile[]

export const lines = (text: string): string[] => text.split('\n').filter((line) => line !== '')
const nameOf = (line: string): string => line.split(':')[0] ?? ''

/** The account files of a server as they are, and what they were when this was called. */
export const accountFiles = async (host: TestHost) => {
  const read = async (file: AccountFile): Promise<string[]> => {
    const { code, stdout } = await host.exec(['cat', `/etc/${file}`])
    expect(code).toBe(0)
    return lines(stdout)
  }
  const modes = async (): Promise<string> =>
    (await host.exec("stat -c '%n %a %U:%G %h' /etc/passwd /etc/shadow /etc/group")).stdout
  const original = new Map<AccountFile, string[]>()
  for (const file of ACCOUNT_FILES) original.set(file, await read(file))
  const originalModes = await modes()

  /** Every line whole, no name twice, the lines of others byte for byte, modes and owners kept, and nothing left over. */
  const expectWellFormed = async (): Promise<void> => {
    for (const file of ACCOUNT_FILES) {
      const all = await read(file)
      expect(all.filter((line) => line.split(':').length !== FIELDS[file])).toEqual([])
      expect(new Set(all.map(nameOf)).size).toBe(all.length)
      // But for the members of the groups that are given.
      const before = original.get(file)?.filter((line) => !/^(dbadmins|developers|deploy):/.test(line))
      expect(all).toEqual(expect.arrayContaining(before ?? []))
    }
    expect(await modes()).toBe(originalModes)
    expect((await host.exec("ls -A /etc | grep -e '[+]$' -e '^[.]apono'")).stdout).toBe('')
  }

  return { read, expectWellFormed }
}

export type AccountFiles = Awaited<ReturnType<typeof accountFiles>>
