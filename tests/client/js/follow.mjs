// Follows what it is told to, and prints what comes, a JSON array a line: what a program does with the client in Node.
import { argv, exit, stdout } from "node:process";

const [clientPath, wsPath, order] = argv.slice(2);
const { connect } = await import(clientPath);
const { WebSocket } = await import(wsPath);
const { urls, follows, slow_ms: slowMs = 0, token } = JSON.parse(order);

const say = (...parts) => stdout.write(`${JSON.stringify(parts)}\n`);
const onstatus = ({ status }) => say("status", status);
const client = connect(urls, { WebSocket, token, onstatus });

async function run({ name, last, ...options }) {
  try {
    const follow = client.follow(options);
    for await (const item of follow) {
      if (item.type) {
        say("event", name, item);
        continue;
      }
      say("update", name, item.index, item.state.n ?? null, follow.cursor);
      if (item.index === last) break;
      if (slowMs) await new Promise((resolve) => setTimeout(resolve, slowMs));
    }
    say("ended", name);
  } catch (error) {
    say("error", name, error.name, error.code ?? null, error.message);
  }
}

await Promise.all(follows.map(run));
client.close();
say("closed");
setTimeout(() => {
  say("still running");
  exit(3);
}, 5000).unref();
