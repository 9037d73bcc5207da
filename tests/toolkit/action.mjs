// One action over the toolkit's own clients: does what its inputs say, and sets outputs for the test to look at.
import * as fs from 'node:fs'
import * as path from 'node:path'
import * as cache from '@actions/cache'
import * as core from '@actions/core'
import { DefaultArtifactClient } from '@actions/artifact'

const input = name => core.getInput(name)
const lines = name => core.getMultilineInput(name)
const client = new DefaultArtifactClient()

const acts = {
  async restore() {
    core.setOutput('found', (await cache.restoreCache(lines('path'), input('key'), lines('others'))) ?? 'nothing')
  },
  async save() {
    core.setOutput('saved', String(await cache.saveCache(lines('path'), input('key'))))
  },
  async upload() {
    const files = lines('path').map(file => path.resolve(file))
    const kept = await client.uploadArtifact(input('name'), files, process.cwd(), {})
    core.setOutput('id', String(kept.id))
  },
  async download() {
    const { artifact } = await client.getArtifact(input('name'))
    await client.downloadArtifact(artifact.id, { path: input('into') })
    core.setOutput('size', String(artifact.size))
  },
  async list() {
    const { artifacts } = await client.listArtifacts()
    core.setOutput('names', artifacts.map(artifact => artifact.name).sort().join(' '))
  },
  async remove() {
    await client.deleteArtifact(input('name'))
  },
  async leave() {
    // For a later step to try, which must not get anywhere with it.
    const { ACTIONS_RESULTS_URL, ACTIONS_RUNTIME_TOKEN } = process.env
    fs.writeFileSync(input('into'), `${ACTIONS_RESULTS_URL} ${ACTIONS_RUNTIME_TOKEN}`)
  },
  async steal() {
    const [url] = fs.readFileSync(input('from'), 'utf8').split(' ')
    const token = fs.readFileSync(input('from'), 'utf8').split(' ')[1]
    const answer = await fetch(`${url}twirp/github.actions.results.api.v1.ArtifactService/ListArtifacts`, {
      method: 'POST',
      headers: { authorization: `Bearer ${input('own') === 'true' ? process.env.ACTIONS_RUNTIME_TOKEN : token}`, 'content-type': 'application/json' },
      body: '{}',
    })
    core.setOutput('status', String(answer.status))
  },
}

acts[input('act')]().catch(error => core.setFailed(error))
