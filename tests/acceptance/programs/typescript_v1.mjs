// The tour with the TypeScript SDK, version 1, which knows the older protocol only; see tour.py for what is asked.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { ResourceUpdatedNotificationSchema } from "@modelcontextprotocol/sdk/types.js";

const { door, session_id } = JSON.parse(process.argv[2]);
const seen = {};

const client = new Client({ name: "typescript-v1", version: "1" });
const told = new Promise((resolve) => {
  client.setNotificationHandler(ResourceUpdatedNotificationSchema, (notification) => resolve(notification.params.uri));
});
let protocol;
const transport = door.url
  ? new StreamableHTTPClientTransport(new URL(door.url), { requestInit: { headers: door.headers } })
  : new StdioClientTransport({ ...door, stderr: "inherit" });
transport.setProtocolVersion = ((set) => (version) => {
  protocol = version;
  set?.call(transport, version);
})(transport.setProtocolVersion);
await client.connect(transport);
seen.protocol = protocol;
seen.server = client.getServerVersion().name;

const call = async (name, args) => (await client.callTool({ name, arguments: args })).structuredContent;
seen.tools = (await client.listTools()).tools.map((tool) => tool.name);
seen.created = await call("create_session", { session_id, title: "From TypeScript" });
seen.task = await call("delegate_task", { agent: "echo", description: "hello", session_id, wait: 20 });
const missing = await client.callTool({ name: "get_task", arguments: { task_id: "no_such_task" } });
seen.is_error = missing.isError;

const uri = `session://${session_id}`;
seen.resources = (await client.listResources()).resources.map((resource) => resource.uri);
seen.templates = (await client.listResourceTemplates()).resourceTemplates.map((template) => template.uriTemplate);
seen.read = JSON.parse((await client.readResource({ uri })).contents[0].text);
seen.prompts = (await client.listPrompts()).prompts.map((prompt) => prompt.name);
seen.recap = (await client.getPrompt({ name: "recap", arguments: { session_id } })).messages[0].content.text;
const argument = { name: "session_id", value: session_id.slice(0, -1) };
const completed = await client.complete({ ref: { type: "ref/prompt", name: "recap" }, argument });
seen.completion = completed.completion.values;

await client.subscribeResource({ uri });
await call("update_session", { session_id, status: "paused" });
seen.told = await told;

await client.close();
console.log(JSON.stringify(seen));
