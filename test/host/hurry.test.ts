import { afterAll, beforeAll, expect, it } from 'vitest'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { makePerson } from './person.ts'

/** Says as what `crontab` and `find` run, which an end calls before and after nobody is left. */
const WATCHED = `for tool in crontab find; do
  mv /usr/bin/$tool /usr/bin/$tool.real
  printf '#!/bin/sh\\necho "%s $(ps -o ni= -p $$) $(cat /proc/$$/autogroup 2>/dev/null)" >>/tmp/nice\\nexec %s.real "$@"\\n' $tool $tool >/usr/bin/$tool
  chmod 755 /usr/bin/$tool
done`

let host: TestHost
beforeAll(async () => {
  // Root has it on any server, and Docker takes it away.
  host = await startHost({ setup: WATCHED, run: { capabilities: ['SYS_NICE'] } })
})
afterAll(() => host?.stop())

let serial = 0
// Once in 100 ms, over the whole machine, is how often the kernel lets the group of a session be moved; another test may just
// have done it.
it('an end goes before what the person runs, and the search for residue does not go before anything', {
  retry: 3,
}, async () => {
  const [id, login] = [`grt_${++serial}`, `dana${serial}`]
  const person = await makePerson(host)
  await host.exec('rm -f /tmp/nice')
  await person.present({ id, login })
  expect(await person.absent({ id, login })).toMatchObject({ account: 'locked' })
  const lines = (await host.exec('cat /tmp/nice')).stdout.trim().split('\n')
  const said = (tool: string): string[] => lines.filter((line) => line.startsWith(tool))
  expect(said('crontab').length).toBeGreaterThan(0)
  for (const line of said('crontab')) expect(line).toMatch(/^crontab +-20 (?:.* nice -20)?$/)
  expect(said('find').at(-1)).toMatch(/^find +0 (?:.* nice 0)?$/)
})
